//! What it costs in a guest that its containers' system calls are filtered, and that its kernel is hardened.

use std::path::PathBuf;
use std::time::Instant;

use cloud_tests::sandboxes::{arguments, container};
use sandbox::{ContainerSpec, ContainerUser, Exec, Sandbox, SeccompProfile};
use tokio::runtime::Runtime;

use crate::median;
use crate::sandboxes::{CONTAINER, CONTAINER_MIB, Sandboxes};

const ROUNDS: usize = 10;
/// A kernel to be compared, without the options that harden: `etc/guest/build-kernel` makes none.
const OTHER_KERNEL: &str = "UNHARDENED_KERNEL";
/// Each opens, copies and closes a file.
const OPENS: &str =
    "time -f 'took %e' sh -c 'i=0; while [ $i -lt 5000 ]; do i=$((i+1)); : </dev/null; done' 2>&1";
const PROCESSES: &str =
    "time -f 'took %e' sh -c 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); /bin/true; done' 2>&1";
const PAGES: &str = "time -f 'took %e' dd if=/dev/zero of=/dev/null bs=32M count=8 2>&1";

/// A guest of one kind.
struct Case {
    name: String,
    sandboxes: Sandboxes,
    sandbox: Sandbox,
    seconds: [Vec<f64>; 4],
}

impl Case {
    fn new(runtime: &Runtime, name: &str, sandboxes: Sandboxes) -> Self {
        let id = format!("hardening-{}", name.replace(' ', "-"));
        let sandbox = runtime.block_on(async {
            let sandbox = sandboxes.create(&id).await;
            sandboxes.start(&sandbox, None).await;
            sandbox
        });
        Self { name: name.into(), sandboxes, sandbox, seconds: Default::default() }
    }

    async fn measure(&mut self) {
        for (script, seconds) in [OPENS, PROCESSES, PAGES].iter().zip(&mut self.seconds) {
            seconds.push(took(&self.sandbox, script).await);
        }
        let another = self.sandboxes.create(&format!("another-{CONTAINER}")).await;
        let began = Instant::now();
        self.sandboxes.bring_up(&another, None).await;
        let spec = container(CONTAINER, &["/bin/sleep", "100000"], self.sandboxes.rootfs());
        another.run(&ContainerSpec { memory_mib: CONTAINER_MIB, ..spec }).await.unwrap();
        self.seconds[3].push(began.elapsed().as_secs_f64());
        another.delete().await.unwrap();
    }
}

pub fn run() {
    let runtime = Runtime::new().unwrap();
    let unfiltered = Sandboxes::with(|options| options.seccomp = SeccompProfile::Unconfined);
    let mut cases = vec![
        Case::new(&runtime, "as shipped", Sandboxes::new()),
        Case::new(&runtime, "no filter", unfiltered),
    ];
    if let Some(kernel) = std::env::var_os(OTHER_KERNEL).map(PathBuf::from) {
        let unhardened = Sandboxes::with(|options| options.kernel = kernel);
        cases.push(Case::new(&runtime, "other kernel", unhardened));
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            runtime.block_on(case.measure());
        }
    }
    println!("Seconds, medians of {ROUNDS} rounds, each guest in turn; {OTHER_KERNEL} adds a kernel");
    println!("                   5000 opens  200 processes  256 MiB of pages  cold start");
    for case in cases {
        let [opens, processes, pages, start] = case.seconds.map(median);
        println!("{:16}  {opens:11.3}  {processes:13.3}  {pages:16.3}  {start:10.3}", case.name);
        runtime.block_on(case.sandbox.delete()).unwrap();
    }
}

/// How long a script takes in the container, by the guest's clock.
async fn took(sandbox: &Sandbox, script: &str) -> f64 {
    let user = ContainerUser { user: "0".into(), group: String::new() };
    let words = arguments(&["sh", "-c", script]);
    let process = sandbox::process(&words, &["PATH=/bin".into()], std::path::Path::new("/"), false).unwrap();
    let exec = Exec { container: CONTAINER.into(), process, user, time_limit: None };
    let said = sandbox.exec(exec).await.unwrap().output;
    let seconds = said.lines().find_map(|line| line.strip_prefix("took "));
    seconds.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}
