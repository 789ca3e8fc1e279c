"""What a run needs, before a weight is read: parameters, memory by part, pictures and velocity evaluations."""
