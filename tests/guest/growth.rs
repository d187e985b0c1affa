//! CPUs and memory of a running sandbox.

use std::time::Duration;

use cloud_tests::sandboxes::OVERHEAD_MIB;
use sandbox::{Sandbox, Size};

use crate::fixture::{self, Fixture};

const SMALL: Size = Size { cpus: 1.0, memory_mib: 128 };
const LARGE: Size = Size { cpus: 2.0, memory_mib: 512 };
const SHRINK_TIMEOUT: Duration = Duration::from_secs(60);
/// Takes more memory than the guest has before it grows.
const FILL: &str = "dd if=/dev/zero of=/dev/null bs=300M count=1 2>&1";

async fn output(sandbox: &Sandbox, script: &str) -> String {
    fixture::output(sandbox, "c", script).await
}

async fn memory_mib(sandbox: &Sandbox) -> u64 {
    let text = output(sandbox, "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").await;
    text.parse::<u64>().unwrap() / 1024
}

async fn limits(sandbox: &Sandbox) -> (String, String) {
    let read = |file: &str| format!("cat /sys/fs/cgroup/{file}");
    (output(sandbox, &read("memory.max")).await, output(sandbox, &read("cpu.max")).await)
}

async fn grows_and_shrinks(fixture: &Fixture, sandbox: &Sandbox) {
    fixture.run(sandbox, "c", &["sleep", "100000"]).await;
    assert_eq!(output(sandbox, "nproc").await, "1");
    let burst = async || output(sandbox, "cat /sys/fs/cgroup/cpu.max.burst").await;
    assert_eq!((limits(sandbox).await.1, burst().await), ("100000 100000".into(), "100000".into()));
    let small = memory_mib(sandbox).await;
    assert!(small < 128 + OVERHEAD_MIB);

    sandbox.update("c", SMALL, LARGE).await.unwrap();
    assert_eq!(output(sandbox, "nproc").await, "2");
    let large = memory_mib(sandbox).await;
    assert!((small + 350..=small + 384).contains(&large), "{small} MiB became {large}");
    assert_eq!(limits(sandbox).await, ("536870912".into(), "200000 100000".into()));
    assert_eq!(burst().await, "200000");
    assert!(output(sandbox, FILL).await.contains("1+0 records out"));

    let error = sandbox.update("c", LARGE, Size { memory_mib: 2048, ..LARGE }).await.unwrap_err();
    assert!(
        error.to_string().contains("2048 MiB of memory, the sandbox was started with room for 960"),
        "{error}"
    );
    let error = sandbox.update("c", LARGE, Size { cpus: 3.0, ..LARGE }).await.unwrap_err();
    assert!(error.to_string().contains("3 CPUs, the sandbox was started with room for 2"), "{error}");
    assert_eq!(limits(sandbox).await.0, "536870912", "what failed changed nothing");

    sandbox.update("c", LARGE, SMALL).await.unwrap();
    assert_eq!(limits(sandbox).await, ("134217728".into(), "100000 100000".into()));
    assert_eq!(burst().await, "100000", "a burst is lowered before its quota is");
    let shrunk = async {
        while memory_mib(sandbox).await > small + 64 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(SHRINK_TIMEOUT, shrunk).await.expect("the guest gives memory back");
    sandbox.update("c", SMALL, Size { cpus: 0.5, ..SMALL }).await.unwrap();
    assert_eq!(limits(sandbox).await.1, "50000 100000");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_sandbox_grows_and_shrinks_while_it_runs() {
    let mut fixture = Fixture::new();
    fixture.sandboxes_that_grow();
    let sandbox = fixture.start("a", 1.0).await;
    grows_and_shrinks(&fixture, &sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn so_does_one_that_goes_on_from_a_template() {
    let mut fixture = Fixture::new();
    fixture.sandboxes_that_grow();
    let spec = fixture.spec_of_group("project");
    let maker = fixture.host().sandbox("maker");
    maker.create().unwrap();
    maker.start(&spec).await.unwrap();
    maker.delete().await.unwrap();
    let sandbox = fixture.host().sandbox("a");
    sandbox.create().unwrap();
    assert!(sandbox.start(&spec).await.unwrap().from_template);
    grows_and_shrinks(&fixture, &sandbox).await;
}
