"""The networks that predict site, age and sex from images."""
