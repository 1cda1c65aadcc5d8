//! kmsd over TLS, driven by the public clients as they are: boto3, the aws command line and the Huawei Cloud SDK.
//!
//! The tests themselves are Python, in `tests/clients`; each of their files is one test here, on a kmsd and a token of its own.

use std::path::PathBuf;
use std::process::Command;

use harness::{Proxy, program, repository, run_patiently};

fn interpreter() -> PathBuf {
    let made = run_patiently(&mut Command::new(repository().join("tests/clients/venv.sh"))).ok();
    made.stdout.trim().into()
}

#[track_caller]
fn pytest(file: &str) {
    let tests = repository().join("tests/clients").join(file);
    let mut command = Command::new(interpreter());
    command
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--strict-markers"])
        .arg(&tests)
        // No byte code beside the sources, and nothing of the user's own cloud settings.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ECS_TEST_BIN", program("kmsd").parent().expect("it lies in a directory"))
        .env("ECS_TEST_PROXY", Proxy::module())
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_ENDPOINT_URL")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let done = run_patiently(&mut command);
    assert!(done.code == 0 && done.stdout.contains(" passed"), "{}\n{}", done.stdout, done.stderr);
}

#[test]
fn boto3_uses_the_aws_protocol() {
    pytest("test_aws.py");
}

#[test]
fn the_aws_command_line_works() {
    pytest("test_aws_cli.py");
}

#[test]
fn the_huawei_sdk_uses_the_native_api() {
    pytest("test_huawei.py");
}

/// K6
#[test]
fn k6_both_sdks_import_material() {
    pytest("test_import.py");
}

#[test]
fn only_well_signed_requests_are_let_in() {
    pytest("test_signatures.py");
}

#[test]
fn limits_and_a_lost_token_are_told() {
    pytest("test_limits.py");
}

#[test]
fn the_network_is_tls_and_bounded() {
    pytest("test_network.py");
}

#[test]
fn clients_are_told_of_faults() {
    pytest("test_faults.py");
}
