"""Where the targets of a batch come from: live teachers, a cache of their answers, the student's own past."""
