//! Tests of the API through its router.

mod access;
mod answers;
mod connections;
mod creation;
mod downloads;
mod stage;
mod watchers;
