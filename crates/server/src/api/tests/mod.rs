//! Tests of the API through its router.

mod access;
mod answers;
mod bodies;
mod connections;
mod creation;
mod downloads;
mod mails;
mod stage;
mod watchers;
