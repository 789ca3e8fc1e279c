"""The world ``shapes``: GenEval in miniature, images of one to four coloured shapes with an exact judge."""
