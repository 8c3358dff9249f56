//! Real servers on loopback, and a keeper of names that says what a test wants.

mod egress;
mod limits;
mod server;
mod statuses;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::policy::{DnsFuture, DnsResolver};
use super::*;
use server::Server;

/// Says for every name what comes next in a list, and its last answer for ever.
struct Told(Mutex<VecDeque<Vec<IpAddr>>>);

impl DnsResolver for Told {
    fn resolve_host(&self, _: &str) -> DnsFuture {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        Box::pin(async move { Ok(answer) })
    }
}

fn rules(allow: &[&str]) -> HttpConfig {
    HttpConfig { allow: allow.iter().map(|entry| (*entry).to_owned()).collect() }
}

fn signing() -> (WebhookSigner, Redactor) {
    (WebhookSigner::new(&WebhooksConfig::default(), ""), Redactor::new([]))
}

/// With the names of the system.
fn http(allow: &[&str]) -> EgressClient {
    limited(allow, &HttpLimits::default())
}

/// The same within these limits.
fn limited(allow: &[&str], limits: &HttpLimits) -> EgressClient {
    let (webhooks, redactor) = signing();
    EgressClient::new(&rules(allow), limits, webhooks, redactor)
}

/// With names that lead where the test says, each time a list of addresses.
fn told(allow: &[&str], answers: &[&[&str]]) -> EgressClient {
    let parsed = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    let answers = answers.iter().map(parsed).collect();
    EgressClient::with_resolver(&rules(allow), &HttpLimits::default(), signing(), Arc::new(Told(Mutex::new(answers))))
}

async fn get(http: &EgressClient, url: &str) -> Result<EgressResponse> {
    http.send(EgressRequest::get(url)?).await
}

async fn refused(http: &EgressClient, url: &str) -> Error {
    match get(http, url).await {
        Ok(answer) => panic!("{url} was answered with {}", answer.status_code()),
        Err(error) => error,
    }
}
