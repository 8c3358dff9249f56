//! Authentication and authorization.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;

use super::stage::Stage;

const RUNS: &str = "/v1/pipelines/contacts-import/runs";

async fn started(stage: &Stage) -> serde_json::Value {
    stage.run(&stage.admin, json!({})).await.json()
}

#[tokio::test]
async fn every_route_but_the_probes_needs_an_api_key() {
    let stage = Stage::new().await;
    let paths = ["/v1/pipelines", "/v1/pipelines/quiet", "/v1/runs", "/v1/runs/x", "/v1/artifacts/x", "/v1/schema"];
    for path in paths {
        let answer = stage.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "key_missing"), "{path}");
        let (rest, last) = stage.admin.split_at(stage.admin.len() - 1);
        let altered = format!("{rest}{}", if last == "0" { "1" } else { "0" });
        for key in ["", "x", "al_aaaaaaaaaa_00", &format!("{}0", stage.admin), &altered] {
            let answer = stage.get(key, path).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "key_invalid"), "{path} `{key}`");
        }
        let basic = Request::get(path).header("authorization", format!("Basic {}", stage.admin));
        assert_eq!(stage.send(basic.body(Body::empty()).unwrap()).await.code(), "key_invalid");
    }
    for path in ["/healthz", "/readyz"] {
        let answer = stage.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_key_may_do_only_what_its_scopes_permit() {
    let stage = Stage::new().await;
    let run = started(&stage).await;
    let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());
    let reader = stage.key(&["runs:read"]).await;
    let writer = stage.key(&["runs:write:contacts-import"]).await;
    let other = stage.key(&["runs:read:quiet", "runs:write:quiet"]).await;

    assert_eq!(stage.get(&reader, &path).await.status, 200);
    assert_eq!(stage.get(&writer, &path).await.code(), "scope_missing");
    assert_eq!(stage.get(&other, &path).await.code(), "run_not_found");

    assert_eq!(stage.run(&reader, json!({})).await.json()["details"]["scope"], "runs:write:contacts-import");
    assert_eq!(stage.run(&other, json!({})).await.code(), "scope_missing");
    let made = stage.run(&writer, json!({})).await;
    assert_eq!((made.status.as_u16(), made.json()["status"].as_str()), (202, Some("queued")));

    let listed = |answer: super::stage::Answer| answer.json()["runs"].as_array().map(Vec::len);
    assert_eq!(listed(stage.get(&reader, "/v1/runs").await), Some(2));
    assert_eq!(listed(stage.get(&other, "/v1/runs").await), Some(0));
    assert_eq!(stage.get(&writer, "/v1/runs").await.code(), "scope_missing");
    assert_eq!(stage.get(&other, "/v1/runs?pipeline=contacts-import").await.code(), "scope_missing");

    let pipelines = stage.get(&writer, "/v1/pipelines").await.json();
    assert_eq!(pipelines["pipelines"].as_array().unwrap().len(), 1);
    assert_eq!(pipelines["refused"], json!([]));
    assert_eq!(stage.get(&writer, "/v1/pipelines/quiet").await.code(), "pipeline_not_found");
    assert_eq!(stage.get(&writer, "/v1/pipelines/contacts-import").await.json().get("source"), None);
    stage.db.api_keys().delete(reader.split('_').nth(1).unwrap()).await.unwrap();
    assert_eq!(stage.get(&reader, &path).await.code(), "key_invalid");
}

#[tokio::test]
async fn only_an_admin_key_pauses_queues_and_pipelines() {
    let stage = Stage::new().await;
    let key = stage.key(&["runs:read", "runs:write", "metrics:read"]).await;
    let paths = ["queues/default/pause", "queues/default/resume", "pipelines/quiet/pause", "pipelines/quiet/resume"];
    for path in paths {
        let refused = stage.post(&key, &format!("/v1/{path}"), "application/json", "{}").await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "scope_missing"), "{path}");
        let unknown = format!("/v1/{path}").replace("quiet", "%01");
        let unknown = stage.post(&stage.admin, &unknown, "application/json", "{}").await;
        assert_eq!(unknown.status, 404, "{path}");
    }
    assert_eq!(stage.get(&key, "/v1/queues").await.code(), "scope_missing");
    assert_eq!(stage.get(&stage.admin, "/v1/queues").await.json(), json!({ "queues": [] }));
}

#[tokio::test]
async fn a_run_token_opens_its_own_run_only() {
    let stage = Stage::new().await;
    let (mine, other) = (started(&stage).await, started(&stage).await);
    let watch = |run: &serde_json::Value| {
        let url = run["watch_url"].as_str().unwrap();
        url.strip_prefix("http://127.0.0.1:8080").unwrap().to_owned()
    };
    let anonymous = |path: String| Request::get(path).body(Body::empty()).unwrap();
    let seen = stage.send(anonymous(watch(&mine))).await;
    assert_eq!((seen.status.as_u16(), &seen.json()["id"]), (200, &mine["id"]));
    let token = watch(&mine).rsplit_once('?').unwrap().1.to_owned();
    let stolen = format!("/v1/runs/{}?{token}", other["id"].as_str().unwrap());
    assert_eq!(stage.send(anonymous(stolen)).await.code(), "token_invalid");
    assert_eq!(stage.send(anonymous(format!("/v1/runs?{token}"))).await.code(), "key_missing");
    assert_eq!(stage.send(anonymous(format!("{}x", watch(&mine)))).await.code(), "token_invalid");
}

#[tokio::test]
async fn cors_opens_responses_to_run_tokens_only() {
    let stage = Stage::new().await;
    let run = started(&stage).await;
    let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());
    let (_, token) = run["watch_url"].as_str().unwrap().rsplit_once('?').unwrap();
    let none = "/v1/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let cases = [
        (format!("{path}?{token}"), false, 200, Some("*")),
        (format!("{path}?{token}x"), false, 401, Some("*")),
        (format!("{none}?{token}"), false, 401, Some("*")),
        (format!("{path}?{token}&x=1"), false, 400, Some("*")),
        (path.clone(), true, 200, None),
        (format!("{path}?{token}"), true, 200, None),
        (path.clone(), false, 401, None),
        ("/v1/runs".to_owned(), true, 200, None),
    ];
    for (path, with_key, status, allowed) in cases {
        let mut request = Request::get(&path).header("origin", "https://shop.example");
        if with_key {
            request = request.header("authorization", format!("Bearer {}", stage.admin));
        }
        let answer = stage.send(request.body(Body::empty()).unwrap()).await;
        let origin = answer.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!((answer.status.as_u16(), origin), (status, allowed), "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{path}");
    }
}

#[tokio::test]
async fn a_file_param_needs_access_to_its_bucket() {
    let stage = Stage::new().await;
    for bucket in ["uploads", "secret"] {
        stage.objects.put_object(bucket, "a/b.csv", "text/csv", "a,b\n".into()).await.unwrap();
    }
    let key = stage.key(&["runs:write"]).await;
    let run = stage.run(&key, json!({ "file": "s3://uploads/a/b.csv" })).await;
    assert_eq!(run.status, 202, "{:?}", run.bytes);
    let file = &run.json()["params"]["file"];
    let pinned = stage.objects.head_object("uploads", "a/b.csv").await.unwrap();
    assert_eq!((&file["etag"], &file["size"], &file["name"]), (&json!(pinned.etag), &json!(4), &json!("b.csv")));

    let secret = json!({ "bucket": "secret", "key": "a/b.csv", "name": "b.csv" });
    for params in [json!({ "file": secret }), json!({ "file": "s3://secret/a/b.csv" }), json!({ "extras": [secret] })] {
        assert_eq!(stage.run(&key, params.clone()).await.code(), "bucket_forbidden", "{params}");
        assert_eq!(stage.run(&stage.admin, params).await.status, 202);
    }
    assert_eq!(stage.run(&key, json!({ "file": "s3://uploads/none" })).await.code(), "object_not_found");
    let stale = json!({ "bucket": "uploads", "key": "a/b.csv", "etag": "other" });
    assert_eq!(stage.run(&key, json!({ "file": stale })).await.code(), "object_changed");
}

#[tokio::test]
async fn impossible_bucket_and_key_names_are_client_errors() {
    let stage = Stage::new().await;
    let key = stage.key(&["runs:write"]).await;
    let (long_bucket, long_key) = (format!("s3://{}/k", "b".repeat(70)), format!("s3://uploads/{}", "k".repeat(1025)));
    let places =
        ["s3://UPPER/k", "s3://a/k", "s3://bu cket/k", &long_bucket, "s3://192.168.0.1/k", "s3://-ab/k", &long_key];
    for place in places {
        for key in [&key, &stage.admin] {
            let refused = stage.run(key, json!({ "file": place })).await;
            assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "params_invalid"), "{place}");
            let wanted = if place == long_key { "the key has 1025 bytes" } else { "is not the name of a bucket" };
            assert!(refused.json()["detail"].as_str().unwrap().contains(wanted), "{}", refused.json());
        }
    }
    let longest = json!({ "file": format!("s3://uploads/{}", "k".repeat(1024)) });
    assert_eq!(stage.run(&key, longest).await.code(), "object_not_found");
    let nobody = stage.run(&stage.admin, json!({ "file": "s3://nobody/k" })).await;
    assert_eq!(nobody.code(), "object_not_found");
    assert!(nobody.json()["detail"].as_str().unwrap().ends_with("there is no such bucket"), "{}", nobody.json());
}

#[tokio::test]
async fn all_invalid_params_are_reported_together() {
    let stage = Stage::new().await;
    let fault_list = async |params: serde_json::Value| {
        let refused = stage.run(&stage.admin, params).await;
        assert_eq!(refused.status, 422, "{:?}", refused.bytes);
        let problem = refused.json();
        let details = problem["details"].as_array().unwrap().iter();
        let fault = |fault: &serde_json::Value| {
            assert_eq!(fault.as_object().unwrap().len(), 3, "{fault}");
            assert!(fault["message"].is_string(), "{fault}");
            format!("{}:{}", fault["param"].as_str().unwrap(), fault["code"].as_str().unwrap())
        };
        (refused.code(), details.map(fault).collect::<Vec<_>>().join(" "))
    };
    let list = json!(["s3://uploads/none", 5, { "bucket": "uploads" }]);
    let wrong = "file:param_wrong_type extras:object_not_found extras:param_wrong_type extras:param_wrong_type";
    assert_eq!(
        fault_list(json!({ "file": "a.csv", "email": "nobody", "colour": "red", "extras": list })).await,
        ("params_invalid".into(), format!("{wrong} email:param_wrong_type colour:param_unknown"))
    );
    let missing = fault_list(json!({ "file": "s3://uploads/none", "extras": ["s3://nobody/k"] })).await;
    assert_eq!(missing, ("object_not_found".into(), "file:object_not_found extras:object_not_found".into()));
    let mixed = fault_list(json!({ "file": "s3://uploads/none", "email": "nobody" })).await;
    assert_eq!(mixed, ("params_invalid".into(), "file:object_not_found email:param_wrong_type".into()));
}

#[tokio::test]
async fn a_file_of_an_earlier_run_needs_read_access_to_that_run() {
    let stage = Stage::new().await;
    let form = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\na,b\r\n--b--\r\n";
    let made = stage.post(&stage.admin, RUNS, "multipart/form-data; boundary=b", form).await.json();
    let file = made["params"]["file"].clone();
    let again = json!({ "file": { "artifact_id": file["artifact_id"] } });
    let reader = stage.key(&["runs:read:contacts-import", "runs:write"]).await;
    let writer = stage.key(&["runs:write"]).await;
    assert_eq!(stage.run(&reader, again.clone()).await.json()["params"]["file"], file);
    assert_eq!(stage.run(&reader, json!({ "file": file })).await.status, 202);
    assert_eq!(stage.run(&writer, again).await.code(), "object_not_found");
    let mut moved = file.clone();
    moved["key"] = json!("other");
    assert_eq!(stage.run(&reader, json!({ "file": moved })).await.code(), "params_invalid");
    assert_eq!(stage.run(&reader, json!({ "file": { "artifact_id": "\u{1}" } })).await.code(), "object_not_found");
    assert_eq!(stage.run(&reader, json!({ "file": { "artifact_id": "\u{0}" } })).await.code(), "text_invalid");
}
