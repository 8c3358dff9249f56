//! The API from the outside, call by call.

mod access;
mod answers;
mod connections;
mod creation;
mod downloads;
mod stage;
