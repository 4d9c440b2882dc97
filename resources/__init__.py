"""What runs are handed as Dagster resources (the artifact store, compute settings), and what these lead to."""
