"""The data sets that need no download: two stories, made by code on first use."""
