"""The world ``shapes``: GenEval in miniature, pictures of one to four coloured shapes with an exact judge."""
