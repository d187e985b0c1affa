//! Times of the service's own log lines about one container.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud, service_log};
use cloud_tests::eventually;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::median;

const ROUNDS: usize = 3;
const STARTING: &str = ": starting";
const RUNNING: &str = ": running: ";

/// Milestones in order: the column's name, and how many milliseconds after the message it was reached.
type Milestones = Vec<(String, f64)>;

pub fn run() {
    in_cloud(|cloud| {
        let cold = rounds(cloud, forget_images);
        let cached = rounds(cloud, |_| {});
        println!(
            "Milliseconds after the message `container_create` was received, medians of {ROUNDS} runs each"
        );
        println!("{:<28} {:>10} {:>14}", "", "cold", "image cached");
        for (cold, cached) in cold.iter().zip(&cached) {
            assert_eq!(cold.0, cached.0);
            println!("{:<28} {:>10.0} {:>14.0}", cold.0, cold.1, cached.1);
        }
        compare_without_network(cloud, &cached);
    });
}

/// Zun lets nobody ask for no network; but one that is made can be taken from it before it starts.
fn compare_without_network(cloud: &Cloud, with: &Milestones) {
    let starts = (0..ROUNDS).map(|_| {
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        cloud.openstack(&["appcontainer", "network", "detach", "--network", "net", &uuid]).ok();
        eventually(60, "it has no port", || match cloud.ports_of(&uuid)[..] {
            [] => Ok(()),
            ref ports => Err(format!("{ports:?}")),
        });
        cloud.wait_for_status(&uuid, "Created");
        cloud.openstack(&["appcontainer", "start", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        let log = service_log(cloud);
        cloud.delete(&uuid);
        time_of(&log, &uuid, RUNNING) - time_of(&log, &uuid, STARTING)
    });
    let start = median(starts.map(time::Duration::as_seconds_f64).collect()) * 1000.0;
    let at = |name: &str| with.iter().find(|(known, _)| known == name).unwrap().1;
    let began = at("image ready");
    println!("From the image to Running: {:.0} ms with a network, {start:.0} without", at("Running") - began);
}

fn forget_images(cloud: &Cloud) {
    cloud.shell("rm -rf /var/lib/zun-kata/images/{rootfs,config,refs}/*");
}

fn rounds(cloud: &Cloud, prepare: impl Fn(&Cloud)) -> Milestones {
    let runs: Vec<Milestones> = (0..ROUNDS)
        .map(|_| {
            prepare(cloud);
            let uuid = cloud.run_busybox("sleep 100000");
            let milestones = read(&service_log(cloud), &uuid);
            cloud.delete(&uuid);
            milestones
        })
        .collect();
    let names = runs[0].iter().map(|(name, _)| name.clone());
    names.enumerate().map(|(n, name)| (name, median(runs.iter().map(|run| run[n].1).collect()))).collect()
}

/// Reads the milestones of a container from the service's log.
fn read(log: &str, uuid: &str) -> Milestones {
    let received = time_of(log, uuid, ": creating");
    let after = |text: &str| (time_of(log, uuid, text) - received).as_seconds_f64() * 1000.0;
    let mut milestones = vec![
        ("image ready".to_owned(), after("the image is ready")),
        ("ports ready".to_owned(), after("the ports are ready")),
    ];
    let began = after(STARTING);
    let running = line(log, uuid, RUNNING);
    let stages = running.split(RUNNING).nth(1).unwrap();
    for stage in stages.split(", ") {
        let (name, time) = stage.trim_end_matches(" ms").split_once(' ').unwrap();
        milestones.push((name.to_owned(), began + time.parse::<f64>().unwrap()));
    }
    milestones.push(("Running".to_owned(), after(RUNNING)));
    milestones
}

fn line<'a>(log: &'a str, uuid: &str, text: &str) -> &'a str {
    let found = log.lines().find(|line| line.contains(uuid) && line.contains(text));
    found.unwrap_or_else(|| panic!("the log has no {text:?} of {uuid}: {log}"))
}

fn time_of(log: &str, uuid: &str, text: &str) -> OffsetDateTime {
    let time = line(log, uuid, text).split(' ').next().unwrap();
    OffsetDateTime::parse(time, &Rfc3339).unwrap()
}
