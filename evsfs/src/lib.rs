//! evsfs
