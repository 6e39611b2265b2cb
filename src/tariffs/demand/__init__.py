"""The demand model: how volume responds to price.

Each unit's weeks follow a conditional (unit-fixed-effect) quasi-Poisson model with a semi-log
price term,

    log mu_ut = log n_ut + gamma_(s(u),t) + alpha_u + beta_u x_ut,
    x = price / reference price - 1,

and beta_u is drawn from N(z_u' delta, tau2).  There are two stages: `prior` estimates the
parameters that all units share (gamma, delta, tau2 and the noise), and `conditional` then fits
every unit alone, given these.  `panel` holds the rows, `season` and `hyper` are the two halves of
the prior, and `linear` is the textbook linear analogue, for comparisons with published tables.
"""
