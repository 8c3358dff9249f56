//! Input that is made to cost more than it should.

mod forms;
mod growth;
mod queues;
