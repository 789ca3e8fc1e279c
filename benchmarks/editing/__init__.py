"""Editing scores as in VIEScore and GEdit-Bench, and ``shapes-edit``: the same scores, judged exactly."""
