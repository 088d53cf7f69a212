//! Ready-made step kinds.
