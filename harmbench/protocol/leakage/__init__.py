"""Does a method write covariates into the images?"""
