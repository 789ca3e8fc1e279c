"""GenEval's file formats and summary, and ``GenEval-mini``: the same tasks and rules in the world ``shapes``."""
