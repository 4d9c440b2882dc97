"""The server of a line's computer: predictions, Open Inference Protocol, metrics, the operator's page."""
