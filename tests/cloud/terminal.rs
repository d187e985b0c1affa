//! Consoles: attaching to a container and interactive execs, through the real command line and `zun-wsproxy`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::{eventually, top};
use serde_json::Value;
use soketto::handshake::{Client, ServerResponse};
use tokio_util::compat::TokioAsyncReadCompatExt;

/// The `openstack` command at a terminal of 33 lines of 101 characters.
struct Terminal {
    script: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(arguments: &str) -> Self {
        let command =
            format!(". devstack/openrc; stty rows 33 cols 101; exec openstack appcontainer {arguments}");
        let mut script = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env("SHELL", "/bin/bash")
            .current_dir(top())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shown) = (script.stdout.take().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Self { script, screen }
    }

    fn wait_for(&self, text: &str) {
        eventually(60, &format!("the terminal shows {text:?}"), || {
            let screen = self.screen.lock().unwrap();
            if screen.contains(text) { Ok(()) } else { Err(screen.clone()) }
        });
    }

    /// Presses Enter until the shell shows its prompt: the command forgets keys that come before it has its terminal ready.
    fn wait_for_prompt(&mut self) {
        self.wait_for("press Enter to continue");
        eventually(60, "the shell prompts", || {
            self.press("\r");
            let screen = self.screen.lock().unwrap();
            if screen.contains("# ") { Ok(()) } else { Err(screen.clone()) }
        });
    }

    fn press(&mut self, keys: &str) {
        self.script.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn wait_until_closed(&mut self) {
        eventually(60, "the command has ended", || match self.script.try_wait().unwrap() {
            Some(_) => Ok(()),
            None => Err(self.screen.lock().unwrap().clone()),
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A container that has a terminal and reads it.
fn create_interactive(cloud: &Cloud, command: &[&str]) -> String {
    let uuid = cloud.make("create", &[&BUSYBOX[..], &["--interactive", "busybox"], command].concat());
    cloud.wait_for_status(&uuid, "Created");
    cloud.openstack(&["appcontainer", "start", &uuid]).ok();
    cloud.wait_for_status(&uuid, "Running");
    uuid
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_shell_runs_at_the_users_terminal() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("sleep 100000");
        let mut terminal = Terminal::open(&format!("exec --interactive {uuid} sh"));
        terminal.wait_for_prompt();
        terminal.press("echo number $((40+2)); tty\r");
        terminal.wait_for("number 42");
        terminal.wait_for("/dev/pts/");
        // The client tells the size once it is connected.
        terminal.press("until [ \"$(stty size)\" = '33 101' ]; do :; done; echo as large as $(stty size)\r");
        terminal.wait_for("as large as 33 101");
        // What runs there ends with Ctrl-C, and the shell goes on.
        terminal.press("sleep 4711\r");
        eventually(60, "it sleeps", || {
            let said = cloud.openstack(&["appcontainer", "exec", &uuid, "ps"]).ok();
            if said.contains("sleep 4711") { Ok(()) } else { Err(said) }
        });
        terminal.press("\x03");
        terminal.press("echo after $((1+1))\r");
        terminal.wait_for("after 2");
        terminal.press("exit 3\r");
        terminal.wait_until_closed();

        // One who only closes the connection leaves no process behind.
        let mut terminal = Terminal::open(&format!("exec --interactive {uuid} sh"));
        terminal.wait_for_prompt();
        terminal.press("echo left $((2+2))\r");
        terminal.wait_for("left 4");
        drop(terminal);
        eventually(60, "the shell has ended", || {
            let said = cloud.openstack(&["appcontainer", "exec", &uuid, "ps"]).ok();
            if said.lines().any(|line| line.trim().ends_with(" sh")) { Err(said) } else { Ok(()) }
        });

        let mut terminal = Terminal::open(&format!("exec --interactive {uuid} not-there"));
        terminal.wait_for("executable 'not-there' not found");
        terminal.wait_until_closed();
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn one_attaches_leaves_and_comes_back() {
    in_cloud(|cloud| {
        let uuid = create_interactive(cloud, &["sh"]);
        let mut terminal = Terminal::open(&format!("attach {uuid}"));
        terminal.wait_for_prompt();
        terminal.press("x=kept; echo first $((20+1))\r");
        terminal.wait_for("first 21");
        terminal.press("until [ \"$(stty size)\" = '33 101' ]; do :; done; echo as large as $(stty size)\r");
        terminal.wait_for("as large as 33 101");
        // Ctrl-P and Ctrl-Q.
        terminal.press("\x10");
        terminal.press("\x11");
        terminal.wait_until_closed();
        cloud.wait_for_status(&uuid, "Running");

        let mut terminal = Terminal::open(&format!("attach {uuid}"));
        terminal.wait_for_prompt();
        terminal.press("echo $x $((20+2))\r");
        terminal.wait_for("kept 22");
        terminal.press("exit\r");
        terminal.wait_until_closed();
        cloud.wait_for_status(&uuid, "Stopped");
        let logs = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
        assert!(logs.contains("first 21") && logs.contains("kept 22"), "{logs}");

        let refused = cloud.openstack(&["appcontainer", "attach", &uuid]);
        assert!(format!("{refused:?}").contains("Stopped"), "{refused:?}");
        cloud.delete(&uuid);
    });
}

/// Opens a websocket, or says with which status it was refused; sends, and reads until as much has come back.
fn through_websocket(url: &str, bytes: &[u8]) -> Result<Vec<u8>, u16> {
    let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
    let path = format!("/{path}");
    let stream = TcpStream::connect(host).unwrap();
    stream.set_nonblocking(true).unwrap();
    let exchange = async {
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut client = Client::new(stream.compat(), host, &path);
        match client.handshake().await.unwrap() {
            ServerResponse::Accepted { .. } => {}
            ServerResponse::Rejected { status_code } => return Err(status_code),
            ServerResponse::Redirect { status_code, .. } => return Err(status_code),
        }
        let (mut sender, mut receiver) = client.into_builder().finish();
        sender.send_binary(bytes).await.unwrap();
        sender.flush().await.unwrap();
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            receiver.receive(&mut back).await.unwrap();
        }
        sender.close().await.unwrap();
        Ok(back)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), exchange).await.unwrap() })
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn any_bytes_pass_and_an_address_serves_once() {
    in_cloud(|cloud| {
        let uuid = create_interactive(cloud, &["sh", "-c", "stty raw -echo; echo ready; exec cat"]);
        eventually(60, "it is ready", || {
            let logs = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
            if logs.contains("ready") { Ok(()) } else { Err(logs) }
        });
        let attach = || {
            let said: Value = cloud.api(&format!("containers/{uuid}/attach"));
            let column = "SELECT websocket_url FROM zun.container WHERE uuid";
            (said.as_str().unwrap().to_owned(), cloud.sql(&format!("{column} = '{uuid}'")))
        };
        // Keys to leave are no part of it, and they are looked for.
        let bytes: Vec<u8> = (0..=255).filter(|byte| *byte != 0x10).cycle().take(10_000).collect();
        let (_, address) = attach();
        assert!(address.contains("&token="), "{address}");
        assert_eq!(through_websocket(&address, &bytes), Ok(bytes.clone()));
        assert_eq!(through_websocket(&address, &bytes), Err(403), "it was used");
        let (_, address) = attach();
        let other = address.replace("token=", "token=0");
        assert_eq!(through_websocket(&other, &bytes), Err(403), "it was guessed");
        assert_eq!(through_websocket(address.split("&token").next().unwrap(), &bytes), Err(403));

        // The same through the proxy.
        let (proxy, _) = attach();
        assert_eq!(through_websocket(&proxy, &bytes), Ok(bytes));

        cloud.openstack(&["appcontainer", "pause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Paused");
        let refused = cloud.openstack(&["appcontainer", "attach", &uuid]);
        assert!(format!("{refused:?}").contains("Paused"), "{refused:?}");
        let unknown =
            cloud.request("POST", &format!("containers/{uuid}/execute_resize?exec_id=none&w=1&h=1"), "");
        assert!(unknown.to_string().contains("none"), "{unknown}");
        // The API deletes no container that is paused.
        cloud.openstack(&["appcontainer", "unpause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        cloud.delete(&uuid);
    });
}
