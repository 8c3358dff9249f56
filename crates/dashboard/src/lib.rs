//! The dashboard: pages for people, made by the server from the same views as the API.
//!
//! A page reads; every write is a call of the API inside the process, so that both check and do the same. Each page works
//! without JavaScript. With it, a page asks once a second whether it has changed, and all who look at a page share one
//! reading of it.

mod actions;
mod api_call;
mod assets;
mod chart;
pub mod codes;
mod cookies;
mod dashboard;
mod day_counts;
mod forms;
mod numbers;
mod origin;
mod page_cache;
mod pages;
mod param_form;
mod response;
mod routes;
mod run_filter;
mod schedule_words;
mod session_cache;
mod shell;
mod sign_in;
mod signed_in;
mod status;
mod times;
mod viewer;

pub use dashboard::Dashboard;
pub use routes::{PAGE_ROUTES, WRITE_ROUTES, dashboard_router};
pub use sign_in::sign_in_url;
