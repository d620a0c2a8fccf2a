"""Which weight gets which variant: the most accurate model for every size, from errors that were measured.

menus -> errors of every (weight, variant) -> one measured KL divergence a weight -> knapsack -> verified, corrected
"""
