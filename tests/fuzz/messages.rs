//! What the agent and the shim read from each other.

use agent_protocol::messages::{
    CreateContainerRequest, ReadStreamResponse, StatsContainerResponse, UpdateContainerRequest,
};
use agent_protocol::{process_from_wire, resources_from_wire, spec_from_wire, spec_to_wire};
use protobuf::Message;

#[test]
fn a_message_that_is_read_is_a_specification_or_an_error() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(request) = CreateContainerRequest::parse_from_bytes(bytes)
            && let Ok(spec) = spec_from_wire(request.OCI.get_or_default())
        {
            let wire = spec_to_wire(&spec).unwrap();
            assert_eq!(spec_from_wire(&wire).unwrap(), spec, "what was read once is read again");
        }
        if let Ok(request) = UpdateContainerRequest::parse_from_bytes(bytes) {
            let _ = resources_from_wire(request.resources.get_or_default());
        }
        let _ = ReadStreamResponse::parse_from_bytes(bytes);
        let _ = StatsContainerResponse::parse_from_bytes(bytes);
    });
}

#[test]
fn texts_and_numbers_of_a_process_are_taken_or_refused() {
    let input = bolero::generator::produce::<(String, Vec<String>, i64, u32, String, u64)>();
    bolero::check!().with_generator(input).for_each(|(cwd, words, score, uid, kind, limit)| {
        let mut process = agent_protocol::messages::Process {
            Cwd: cwd.clone(),
            Args: words.clone(),
            OOMScoreAdj: *score,
            ..Default::default()
        };
        process.User.mut_or_insert_default().UID = *uid;
        process.Rlimits.push(agent_protocol::messages::POSIXRlimit {
            Type: kind.clone(),
            Hard: *limit,
            ..Default::default()
        });
        assert!(process_from_wire(&process).is_err() || kind.starts_with("RLIMIT_"));
    });
}
