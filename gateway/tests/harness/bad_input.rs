//! Cases of bad input, and the ground on which they are tried.

use std::net::SocketAddr;

use serde_json::json;

use super::gateway::{Gateway, Launch};
use super::mcp::{LEGACY, Session, request};
use super::wire::Wire;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It serves the next request.
    Open,
    /// It is closed behind the answer.
    Closed,
}

/// One kind of bad input.
pub(crate) struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    status: u16,
    code: Option<i64>,
    then: Then,
}

/// A case; a `code` is looked for only where one is given.
pub(crate) fn case(
    name: &'static str,
    bytes: Vec<u8>,
    status: u16,
    code: Option<i64>,
    then: Then,
) -> Case {
    Case { name, bytes, status, code, then }
}

/// A gateway with a session that must stay healthy throughout.
pub(crate) struct Ground {
    /// The gateway.
    pub(crate) gateway: Gateway,
    /// The session.
    pub(crate) healthy: Session,
}

impl Ground {
    /// With the built-in settings.
    pub(crate) async fn new() -> Ground {
        Ground::with(Launch::default()).await
    }

    /// With these settings.
    pub(crate) async fn with(launch: Launch) -> Ground {
        let gateway = launch.start();
        let healthy = Session::open(gateway.listen, LEGACY).await.expect("open a session");
        Ground { gateway, healthy }
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.listen
    }

    /// Runs the cases one after the other.
    pub(crate) async fn check(&self, cases: Vec<Case>) {
        for case in cases {
            self.check_case(&case).await;
            self.healthy.assert_healthy().await;
        }
    }

    async fn check_case(&self, case: &Case) {
        let name = case.name;
        let mut wire = Wire::connect(self.address()).await.expect("connect");
        // The gateway may answer and close before it has read everything.
        let _ = wire.send(&case.bytes).await;
        let answer = wire.answer().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.head.status, case.status, "{name}: {answer:?}");
        if case.code.is_some() {
            let json = answer.json();
            assert_eq!(json["error"]["code"].as_i64(), case.code, "{name}: {json}");
            assert_eq!(json["jsonrpc"], "2.0", "{name}: {json}");
        }
        match case.then {
            Then::Closed => {
                assert!(answer.head.closes(), "{name}: the close was not announced: {answer:?}");
                assert!(wire.is_closed().await, "{name}: the connection was left open");
            }
            Then::Open => {
                let ping = request(99, "ping", &json!({}));
                let next = self.healthy.ask(&mut wire, &ping).await;
                let next =
                    next.unwrap_or_else(|error| panic!("{name}, the request after: {error}"));
                assert_eq!(next.head.status, 200, "{name}, the request after: {next:?}");
            }
        }
    }
}
