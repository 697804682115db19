"""How important each unit of a group is. Knows nothing of the search or of devices."""
