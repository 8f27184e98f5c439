"""Pictures of graphs and of searches; they need matplotlib."""
