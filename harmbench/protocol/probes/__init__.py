"""The networks that read site, age and sex from images."""
