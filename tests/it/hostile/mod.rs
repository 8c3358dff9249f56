//! Input that somebody made to do harm.

mod files;
