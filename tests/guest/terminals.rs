//! Whoever is connected to a process of a container.

use std::path::Path;
use std::time::Duration;

use cloud_tests::sandboxes::arguments;
use sandbox::{ContainerUser, Exec, Interact, ProcessInput, Sandbox, WindowSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Fixture, exec, output};

const LONG: [&str; 2] = ["sleep", "100000"];
/// As long as those that the compute service makes.
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SIZE: WindowSize = WindowSize { rows: 40, columns: 100 };

fn interact(id: &str, words: &[&str], terminal: bool) -> Interact {
    let process =
        sandbox::process(&arguments(words), &["PATH=/bin".into()], Path::new("/"), terminal).unwrap();
    let user = ContainerUser { user: "0".into(), group: String::new() };
    let exec = Exec { container: "c".into(), process, user, time_limit: None };
    Interact { id: id.into(), exec, input: ProcessInput::Open, size: terminal.then_some(SIZE) }
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&all).contains(text) {
            all.push(stream.read_u8().await.unwrap());
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), read).await;
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(done.is_ok(), "{text:?} does not come after {all:?}");
    all
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut all)).await;
    read.expect("the connection ends").unwrap();
    all
}

/// Waits until no process has this in its command, whose first letter is in brackets: so that it does not find itself.
async fn wait_until_gone(sandbox: &Sandbox, command: &str) {
    output(sandbox, "c", &format!("while ps | grep -q '{command}'; do usleep 50000; done")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn an_exec_has_a_terminal_or_pipes_that_close_one_by_one() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;

    let mut terminal = sandbox.interact(interact(ID, &["sh"], true)).await.unwrap();
    terminal.write_all(b"stty size; tty\n").await.unwrap();
    read_until(&mut terminal, "40 100").await;
    read_until(&mut terminal, "/dev/pts/").await;
    sandbox.resize_terminal("c", Some(ID.into()), WindowSize { rows: 50, columns: 120 }).await.unwrap();
    terminal.write_all(b"stty size\n").await.unwrap();
    read_until(&mut terminal, "50 120").await;
    terminal.write_all(b"exit\n").await.unwrap();
    read_to_end(&mut terminal).await;
    let error = sandbox.resize_terminal("c", Some(ID.into()), SIZE).await.unwrap_err();
    assert!(error.to_string().contains(ID), "{error}");

    // All that `cat` is given comes back, and it ends with its input.
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let pipes = sandbox.interact(interact("pipes", &["cat"], false)).await.unwrap();
    let (mut output_of_cat, mut input_of_cat) = tokio::io::split(pipes);
    let written = bytes.clone();
    let writing = tokio::spawn(async move {
        input_of_cat.write_all(&written).await.unwrap();
        input_of_cat.shutdown().await.unwrap();
    });
    assert_eq!(read_to_end(&mut output_of_cat).await, bytes);
    writing.await.unwrap();

    // One whose user leaves without a word hangs up; one that its user leaves with the keys for it goes on.
    let mut left = sandbox.interact(interact("left", &["sleep", "4711"], true)).await.unwrap();
    drop(sandbox.interact(interact("dropped", &["top", "-d", "1"], true)).await.unwrap());
    wait_until_gone(&sandbox, "[t]op -d").await;
    left.write_all(b"\x10\x11").await.unwrap();
    drop(left);
    output(&sandbox, "c", "ps | grep -q '[s]leep 4711'").await;

    let mut missing = sandbox.interact(interact("missing", &["no-such-program"], true)).await.unwrap();
    let told = String::from_utf8(read_to_end(&mut missing).await).unwrap();
    assert!(told.contains("no-such-program") && told.ends_with("\r\n"), "{told:?}");

    let limited = Exec { time_limit: Some(Duration::from_secs(1)), ..exec("c", &["sleep", "815"]) };
    assert!(matches!(sandbox.exec(limited).await, Err(sandbox::Error::TimedOut)));
    output(&sandbox, "c", "! ps | grep 'sleep 81[5]'").await;
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn several_attach_to_a_container_and_leave_it() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let mut container = fixture.container("c", &["sh"]);
    (container.terminal, container.interactive) = (true, true);
    sandbox.make_disk("c", 1).await.unwrap();
    sandbox.run(&container).await.unwrap();
    let (mut one, mut other) = (sandbox.attach_to("c").await.unwrap(), sandbox.attach_to("c").await.unwrap());
    one.write_all(b"echo both $((40+2))\n").await.unwrap();
    read_until(&mut one, "both 42").await;
    read_until(&mut other, "both 42").await;
    one.write_all(b"\x10\x11").await.unwrap();
    read_to_end(&mut one).await;
    sandbox.resize_terminal("c", None, SIZE).await.unwrap();
    other.write_all(b"stty size; exit 5\n").await.unwrap();
    read_until(&mut other, "40 100").await;
    read_to_end(&mut other).await;
    assert_eq!(sandbox.wait("c").await.unwrap().status, 5);
    assert!(sandbox.attach_to("c").await.is_err());
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}
