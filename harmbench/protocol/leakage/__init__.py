"""Does a method paint covariates into images?"""
