//! Blocked addresses are not called, in any notation and through any name or redirect.

use super::server::{Behavior, answer};
use super::*;
use crate::codes;

#[tokio::test]
async fn no_notation_of_a_private_address_is_called() {
    let http = http(&[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "0xa.1",
        "012.1",
        "167772161",
        "100.64.0.1",
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "172.16.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b:1::a00:1]",
        "[2002:7f00:1::1]",
        "[2001::1]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
    ] {
        for scheme in ["http", "https"] {
            let error = refused(&http, &format!("{scheme}://{host}:1/canary?canary=canary")).await;
            assert_eq!((error.code().name(), error.is_transient()), ("egress_blocked", false), "{host}: {error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_called() {
    for ip in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1", "::1", "fd00:ec2::254", "::ffff:8.8.8.8"] {
        // One private address among public ones is enough to block.
        let http = client_with_dns(&[], &[&["93.184.215.14", ip]]);
        let error = refused(&http, "http://innocent.example/").await;
        assert_eq!(error.code(), codes::EGRESS_BLOCKED, "{ip}: {error}");
        assert!(!error.to_string().contains(ip), "the address of a name is not shown: {error}");
    }
    // With the resolver of the system.
    let server = Server::responding(&answer("200 OK", "", "")).await;
    let error = refused(&http(&[]), &format!("http://localhost:{}/", server.port)).await;
    assert_eq!(error.code(), codes::EGRESS_BLOCKED);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn dns_rebinding_is_blocked() {
    let server = Server::responding(&answer("302 Found", "Location: http://rebind.example/again\r\n", "")).await;
    let port = server.port;
    // The allowed address stands for the public internet: the first lookup returns it, the second another one.
    let allow = format!("127.0.0.1:{port}");
    let http = client_with_dns(&[&allow], &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(
        get(&http, &format!("http://rebind.example:{port}/")).await.err().unwrap().code().name(),
        "egress_blocked"
    );
    assert_eq!(server.requests().len(), 1);
    // Every connection resolves the name again and uses the checked addresses.
    let server = Server::responding(&answer("200 OK", "", "")).await;
    let allow = format!("127.0.0.1:{}", server.port);
    let http = client_with_dns(&[&allow], &[&["127.0.0.1"], &["10.0.0.1"]]);
    let url = format!("http://rebind.example:{}/", server.port);
    assert_eq!(get(&http, &url).await.unwrap().status_code(), 200);
    assert_eq!(refused(&http, &url).await.code().name(), "egress_blocked");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_allow_list_permits_its_entries_only() {
    let server = Server::responding(&answer("204 No Content", "", "")).await;
    let port = server.port;
    let with_port = |host: &str| format!("{host}:{port}");
    for (entry, host) in [
        ("127.0.0.1".to_owned(), "127.0.0.1"),
        (with_port("127.0.0.1"), "2130706433"),
        ("127.0.0.0/8".to_owned(), "innocent.example"),
        ("a.corp.example".to_owned(), "A.Corp.Example."),
        (with_port("*.corp.example"), "b.a.corp.example"),
    ] {
        let http = client_with_dns(&[&entry], &[&["127.0.0.1"]]);
        let url = format!("http://{host}:{port}/");
        assert_eq!(get(&http, &url).await.map(|answer| answer.status_code()).unwrap(), 204, "{entry}");
    }
    let elsewhere = format!("127.0.0.1:{}", port ^ 1);
    for (entry, host) in [
        (elsewhere.as_str(), "127.0.0.1"),
        (&elsewhere, "innocent.example"),
        ("127.0.0.2", "127.0.0.1"),
        ("*.corp.example", "corp.example"),
        ("*.corp.example", "evilcorp.example"),
        ("corp.example", "a.corp.example"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let http = client_with_dns(&[entry], &[&["127.0.0.1"]]);
        assert_eq!(
            refused(&http, &format!("http://{host}:{port}/")).await.code().name(),
            "egress_blocked",
            "{entry} {host}"
        );
    }
}

#[tokio::test]
async fn redirects_are_followed_three_times_and_never_to_blocked_addresses() {
    let inner = Server::responding(&answer("200 OK", "", "secret of the inside")).await;
    let inside = inner.port;
    let server = Server::start(move |path| {
        let to = match path.split('?').next().unwrap() {
            "/circle" => "/circle".to_owned(),
            "/inside" => format!("http://127.0.0.1:{inside}/"),
            "/decimal" => format!("http://2130706433:{inside}/"),
            "/name" => format!("http://localhost:{inside}/"),
            "/metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
            "/file" => "file:///etc/passwd".to_owned(),
            "/user" => "http://user:canary@127.0.0.1/".to_owned(),
            "/3" => "/2".to_owned(),
            "/2" => "1".to_owned(),
            "/1" => "?end".to_owned(),
            "/" | "/end" => return Behavior::Responds(answer("200 OK", "", "done")),
            _ => "/end".to_owned(),
        };
        if path == "/1?end" {
            return Behavior::Responds(answer("200 OK", "", "done"));
        }
        Behavior::Responds(answer("302 Found", &format!("Location: {to}\r\n"), ""))
    })
    .await;
    let http = http(&[&format!("127.0.0.1:{}", server.port)]);
    for path in ["/inside", "/decimal", "/name", "/metadata"] {
        assert_eq!(refused(&http, &server.url(path)).await.code().name(), "egress_blocked", "{path}");
    }
    assert!(inner.requests().is_empty());
    assert_eq!(refused(&http, &server.url("/file")).await.code().name(), "http_url_invalid");
    assert_eq!(refused(&http, &server.url("/user")).await.code().name(), "http_url_invalid");
    let before = server.requests().len();
    let error = refused(&http, &server.url("/circle?token=canary")).await;
    assert_eq!((error.code().name(), error.is_transient()), ("http_redirect_refused", false));
    assert!(!error.to_string().contains("canary"), "{error}");
    assert_eq!(server.requests().len() - before, 4, "the first call and three more");
    let answer = get(&http, &server.url("/3")).await.unwrap();
    assert_eq!(answer.read_bytes().await.unwrap(), "done");
    // A client without redirects gets the redirect itself.
    let request = EgressRequest::get(&server.url("/metadata")).unwrap().without_redirects();
    assert_eq!(http.send(request).await.unwrap().status_code(), 302);
}

#[tokio::test]
async fn secret_headers_stay_with_their_origin() {
    let other = Server::responding(&answer("200 OK", "", "")).await;
    let to = other.url("/");
    let server = Server::start(move |path| match path {
        "/same" => Behavior::Responds(answer("307 Temporary Redirect", "Location: /other\r\n", "")),
        _ => Behavior::Responds(answer("307 Temporary Redirect", &format!("Location: {to}\r\n"), "")),
    })
    .await;
    let http = http(&["127.0.0.1"]);
    let request = EgressRequest::post(&server.url("/same")).unwrap().with_body("text/plain", "the body");
    let request =
        request.with_header("Authorization", "Bearer canary").unwrap().with_header("X-Key", "canary").unwrap();
    http.send(request).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|request| request.matches("canary").count() == 2).count(), 2, "{requests:?}");
    let other = &other.requests()[0];
    assert!(other.starts_with("POST / ") && other.ends_with("the body") && !other.contains("canary"), "{other}");
}
