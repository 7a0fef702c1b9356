"""What is looked at before the first step: data, teachers, one batch through everything."""
