//! From raw files to rows of numbers.
