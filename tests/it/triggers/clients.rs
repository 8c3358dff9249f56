//! Common S3 clients: an upload by each of them starts a run.

use tokio::process::Command;

use crate::support::{Database, TestApp, both, tool};

both!(uploads_of_every_client_start_runs);

const PIPELINE: &str = "name: up\ntriggers: [{ type: s3, bucket: uploads, prefix: in/ }]\n\
                        params: { file: { type: file } }\nsteps:\n  \
                        - { id: one, uses: test.step, with: { give: \"${{ params.file.size }}\" } }\n";

/// Parses `export NAME=value`, as `afterload key s3` prints it.
fn exports(app: &TestApp) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let args = afterload::cli::key::S3KeyArgs::default();
    afterload::cli::key::print_s3_exports(&app.config, &args, &mut out, &mut std::io::sink()).unwrap();
    let text = String::from_utf8(out).unwrap();
    let pairs = text.lines().map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn run(command: &mut Command, exports: &[(String, String)], dir: &std::path::Path) -> String {
    command.envs(exports.iter().map(|(name, value)| (name, value))).env("HOME", dir).current_dir(dir);
    // Old versions of rclone do not support it.
    command.env_remove("AWS_CA_BUNDLE");
    let output = command.output().await.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

async fn uploads_of_every_client_start_runs(database: Database) {
    let app = TestApp::builder(database).pipeline("up", PIPELINE).start().await;
    let exports = exports(&app);
    let value = |name: &str| exports.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let (endpoint, dir) = (value("AWS_ENDPOINT_URL"), app.dir.path().to_owned());
    let host = endpoint.strip_prefix("http://").unwrap();
    std::fs::write(dir.join("a b+ü.csv"), "name\nAda\n").unwrap();
    std::fs::write(dir.join("large.bin"), vec![7; 20 << 20]).unwrap();

    let aws = || Command::new(tool("aws"));
    run(aws().args(["s3", "cp", "a b+ü.csv", "s3://uploads/in/aws/"]), &exports, &dir).await;
    run(aws().args(["s3", "cp", "large.bin", "s3://uploads/in/aws-parts.bin"]), &exports, &dir).await;
    run(aws().args(["s3", "cp", "s3://uploads/in/aws-parts.bin", "s3://uploads/in/aws-copy.bin"]), &exports, &dir)
        .await;
    let listed = run(aws().args(["s3", "ls", "s3://uploads/in/"]), &exports, &dir).await;
    assert!(listed.contains("PRE aws/") && listed.contains("aws-copy.bin"), "{listed}");

    let s3cmd_anywhere = || {
        let mut command = Command::new(tool("s3cmd"));
        let host = format!("--host={host}");
        command.args(["--no-ssl", "--no-check-certificate", &host, &host.replace("host=", "host-bucket=")]);
        command
    };
    let s3cmd = || {
        let mut command = s3cmd_anywhere();
        command.arg("--region=us-east-1");
        command
    };
    run(s3cmd().args(["put", "a b+ü.csv", "s3://uploads/in/s3cmd/"]), &exports, &dir).await;
    run(s3cmd().args(["put", "--multipart-chunk-size-mb=5", "large.bin", "s3://uploads/in/s3cmd.bin"]), &exports, &dir)
        .await;

    // Without a region, it signs for one that does not exist, and then for the one that the store names.
    let listed = run(s3cmd_anywhere().args(["ls", "s3://uploads/in/"]), &exports, &dir).await;
    assert!(listed.contains("in/s3cmd.bin"), "{listed}");

    let remote = format!(":s3,provider=Other,env_auth=true,endpoint='{endpoint}',force_path_style=true:uploads/in");
    let rclone = || {
        let mut command = Command::new("rclone");
        command.args(["--config", "/dev/null", "--retries", "1", "--low-level-retries", "2", "--s3-no-check-bucket"]);
        command
    };
    run(rclone().args(["copy", "a b+ü.csv", &format!("{remote}/rclone")]), &exports, &dir).await;
    run(
        rclone().args(["copyto", "--s3-upload-cutoff", "5M", "large.bin", &format!("{remote}/rclone.bin")]),
        &exports,
        &dir,
    )
    .await;

    let script = "import boto3, sys\ns3 = boto3.client('s3')\ns3.upload_file('a b+ü.csv', 'uploads', 'in/boto3.csv')\n\
                  s3.upload_file('large.bin', 'uploads', 'in/boto3.bin')\n\
                  import urllib.request\n\
                  url = s3.generate_presigned_url('put_object', Params={'Bucket': 'uploads', 'Key': 'in/presigned'})\n\
                  urllib.request.urlopen(urllib.request.Request(url, data=b'x', method='PUT'))\n";
    run(Command::new(tool("python")).args(["-c", script]), &exports, &dir).await;

    let mut keys: Vec<_> =
        app.until_runs(10).await.iter().map(|run| run.params["file"]["key"].as_str().unwrap().to_owned()).collect();
    keys.sort();
    let expected = [
        "in/aws-copy.bin",
        "in/aws-parts.bin",
        "in/aws/a b+ü.csv",
        "in/boto3.bin",
        "in/boto3.csv",
        "in/presigned",
        "in/rclone.bin",
        "in/rclone/a b+ü.csv",
        "in/s3cmd.bin",
        "in/s3cmd/a b+ü.csv",
    ];
    assert_eq!(keys, expected);
    app.until_no_events().await;
    assert_eq!(app.runs().await.len(), 10);
    app.finish().await;
}
