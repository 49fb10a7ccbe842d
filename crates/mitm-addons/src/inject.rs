//! The commands that send messages into live connections. That a flow is of another kind, or over, is a warning and no
//! error: whoever calls them from a key or a script goes on.

use mitm_addon::Loader;
use mitm_options::{ArgType, CommandDecl};
use mitm_proxy::InjectError;
use tracing::warn;

pub(crate) fn register(loader: &Loader<'_>) {
    let commands = loader.master.commands();

    let decl =
        CommandDecl::new("inject.websocket", "Send a message into a live WebSocket connection.")
            .arg("flow", ArgType::Flow)
            .arg("to_client", ArgType::Bool)
            .arg("message", ArgType::Bytes)
            .optional("is_text", ArgType::Bool, true);
    let master = loader.master.downgrade();
    commands.add(decl, move |mut args| {
        let (flow, to_client, message) = (args.flow()?, args.bool()?, args.bytes()?.into());
        let is_text = args.bool()?;
        if let Some(master) = master.upgrade() {
            warn_of(master.proxy().inject_websocket(&flow, to_client, message, is_text));
        }
        Ok(())
    });

    let decl = CommandDecl::new("inject.tcp", "Send data into a live TCP connection.")
        .arg("flow", ArgType::Flow)
        .arg("to_client", ArgType::Bool)
        .arg("message", ArgType::Bytes);
    let master = loader.master.downgrade();
    commands.add(decl, move |mut args| {
        let (flow, to_client, message) = (args.flow()?, args.bool()?, args.bytes()?.into());
        if let Some(master) = master.upgrade() {
            warn_of(master.proxy().inject_tcp(&flow, to_client, message));
        }
        Ok(())
    });
}

fn warn_of(result: Result<(), InjectError>) {
    if let Err(error) = result {
        warn!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::testing;
    use mitm_flow::{FlowRef, test_util};
    use mitm_options::ArgValue;

    use crate::ProxyServer;

    #[test]
    fn flows_that_take_no_messages_are_no_error() {
        let master = testing::master_with(Arc::new(ProxyServer::default())).unwrap();
        let run = |name: &str, flow: FlowRef| {
            let message = ArgValue::Bytes(b"x".to_vec());
            master.commands().call(name, vec![flow.into(), true.into(), message]).unwrap();
        };
        for flow in test_util::flows() {
            run("inject.websocket", flow.clone());
            run("inject.tcp", flow);
        }
        let signature = |name: &str| master.commands().decl(name).unwrap().signature();
        assert_eq!(
            signature("inject.websocket"),
            "inject.websocket flow to_client message is_text"
        );
        assert_eq!(signature("inject.tcp"), "inject.tcp flow to_client message");
    }
}
