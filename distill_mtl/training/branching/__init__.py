"""Where the tasks of a student leave its trunk, found from the teachers before training."""
