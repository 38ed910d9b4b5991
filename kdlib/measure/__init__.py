"""Numbers about layers and maps, and what can be concluded from them over seeds."""
