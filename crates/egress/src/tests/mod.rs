//! Real servers on loopback, and a resolver with scripted answers.

mod egress;
mod limits;
mod server;
mod statuses;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::policy::{DnsFuture, DnsResolver};
use super::*;
use afterload_core::clock::Clock;
use afterload_core::keyring::Keyring;
use server::Server;

/// Answers every lookup with the next list of addresses; repeats the last one.
struct ScriptedDns(Mutex<VecDeque<Vec<IpAddr>>>);

impl DnsResolver for ScriptedDns {
    fn resolve_host(&self, _: &str) -> DnsFuture {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        Box::pin(async move { Ok(answer) })
    }
}

fn rules(allow: &[&str]) -> HttpConfig {
    HttpConfig { allow: allow.iter().map(|entry| (*entry).to_owned()).collect() }
}

fn signing() -> (WebhookSigner, Redactor, Clock) {
    (WebhookSigner::new(&WebhooksConfig::default(), &Keyring::new("", [])), Redactor::new([]), Clock::system())
}

/// A client with the resolver of the system.
fn http(allow: &[&str]) -> EgressClient {
    limited(allow, &HttpLimits::default())
}

/// Same as [`http`], with these limits.
fn limited(allow: &[&str], limits: &HttpLimits) -> EgressClient {
    let (webhooks, redactor, clock) = signing();
    EgressClient::new(&rules(allow), limits, webhooks, redactor, clock)
}

/// A client whose lookups return these lists of addresses, one per lookup.
fn client_with_dns(allow: &[&str], answers: &[&[&str]]) -> EgressClient {
    let parsed = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    let answers = answers.iter().map(parsed).collect();
    EgressClient::with_resolver(
        &rules(allow),
        &HttpLimits::default(),
        signing(),
        Arc::new(ScriptedDns(Mutex::new(answers))),
    )
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
