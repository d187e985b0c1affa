//! A server of unit tests, which answers requests as it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::keystone::{AuthOptions, Keystone};

/// A request: its method with its path, and the token that it carries.
pub(crate) struct Asked {
    pub(crate) what: String,
    pub(crate) token: String,
}

/// Starts a server whose answers have this status and this document. It gives `token-0` to the first who authenticates, and so on.
/// The URL is returned.
pub(crate) fn serve(mut answer: impl FnMut(Asked) -> (u16, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut tokens = 0;
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let asked = read(&client);
            let (status, header, body) = if asked.what.ends_with("/auth/tokens") {
                tokens += 1;
                let token =
                    r#"{"token":{"methods":["password"],"expires_at":"2999-01-01T00:00:00Z","catalog":[]}}"#;
                (201, format!("X-Subject-Token: token-{}\r\n", tokens - 1), token.to_owned())
            } else {
                let (status, body) = answer(asked);
                (status, String::new(), body)
            };
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 {status} x\r\n{header}Content-Type: application/json\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    format!("http://{address}")
}

fn read(client: &TcpStream) -> Asked {
    let mut lines = BufReader::new(client);
    let (mut what, mut token, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let line = line.trim_end();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => what = line.split(' ').take(2).collect::<Vec<_>>().join(" "),
            Some((name, value)) if name.eq_ignore_ascii_case("x-auth-token") => token = value.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap()
            }
            Some(_) => {}
        }
    }
    lines.take(length).read_to_end(&mut Vec::new()).unwrap();
    Asked { what, token }
}

/// A session with the Keystone at `url`.
pub(crate) async fn session(url: &str) -> Keystone {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = AuthOptions {
        auth_url: format!("{url}/v3"),
        username: "zun".into(),
        password: "secret".into(),
        project_name: "service".into(),
        ..Default::default()
    };
    Keystone::connect(&options).await.unwrap()
}
