//! K1 to K4 and the tokens they live in.
