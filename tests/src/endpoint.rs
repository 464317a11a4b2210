//! Reaching a Service from outside the cluster.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{conditions::is_pod_running, wait::Condition as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::{Error, Result, error::ApiContext as _};

/// How long the Service's own address may take to answer before it counts as out of reach.
const DIRECT: Duration = Duration::from_secs(1);

/// An address at which a Service answers: its own, where the cluster's network can be reached, else a forwarded port.
pub struct Endpoint {
    address: SocketAddr,
    forward: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// An address of one port of a Service.
    ///
    /// # Errors
    /// If there is no such Service, or no port of this machine can be opened.
    pub async fn of(client: &Client, namespace: &str, service: &str, port: u16) -> Result<Self> {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let found = services.get(service).await.asked(format!("look up the Service {namespace}/{service}"))?;
        match direct_address(&found, port).await {
            Some(address) => Ok(Self { address, forward: None }),
            None => Self::forward(client, namespace, &found, port).await,
        }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as the root of URLs.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn forward(client: &Client, namespace: &str, service: &Service, port: u16) -> Result<Self> {
        let name = service.name_any();
        let unexpected = |message: String| Error::Unexpected(message);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| unexpected(e.to_string()))?;
        let address = listener.local_addr().map_err(|e| unexpected(e.to_string()))?;
        let target = Target {
            pods: Api::namespaced(client.clone(), namespace),
            selector: service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default(),
            port: ports_of(service)
                .find(|candidate| candidate.port == i32::from(port))
                .and_then(|found| found.target_port.clone())
                .unwrap_or(IntOrString::Int(i32::from(port))),
        };
        tracing::debug!(%namespace, service = name, %address, "forwarding a port");
        let forward = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let target = target.clone();
                tokio::spawn(async move {
                    if let Err(error) = target.carry(connection).await {
                        tracing::warn!(%error, "a forwarded connection broke");
                    }
                });
            }
        });
        Ok(Self { address, forward: Some(forward) })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(forward) = &self.forward {
            forward.abort();
        }
    }
}

fn ports_of(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten())
}

async fn direct_address(service: &Service, port: u16) -> Option<SocketAddr> {
    let ip = service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?;
    let address = SocketAddr::new(ip, port);
    timeout(DIRECT, TcpStream::connect(address)).await.ok()?.ok().map(|_| address)
}

/// The pods behind a Service.
#[derive(Clone)]
struct Target {
    pods: Api<Pod>,
    selector: BTreeMap<String, String>,
    port: IntOrString,
}

impl Target {
    async fn carry(&self, mut connection: TcpStream) -> Result<()> {
        let selector = self.selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let pods =
            self.pods.list(&ListParams::default().labels(&selector)).await.asked("list the pods of a Service")?;
        let pod = pods
            .items
            .iter()
            .find(|pod| is_pod_running().matches_object(Some(pod)) && pod.metadata.deletion_timestamp.is_none())
            .ok_or_else(|| Error::Unexpected(format!("no pod of {selector} runs")))?;
        let port = self.port_of(pod)?;
        let mut forwarder = self.pods.portforward(&pod.name_any(), &[port]).await.asked("forward a port")?;
        if let Some(mut stream) = forwarder.take_stream(port) {
            // How the connection ends is for its two ends to judge.
            tokio::io::copy_bidirectional(&mut connection, &mut stream).await.ok();
        }
        Ok(())
    }

    fn port_of(&self, pod: &Pod) -> Result<u16> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let number = match &self.port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port),
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| Error::Unexpected(format!("{} has no port {:?}", pod.name_any(), self.port)))
    }
}
