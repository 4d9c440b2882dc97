"""The commands of ``ad-assets``, a module each, thin over the graph."""
