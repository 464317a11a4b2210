//! The Service.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use stoker_crds::serving::INFERENCE_PORT;

use super::{metadata, selector};
use crate::deployment::validate::Validated;

/// Selects the pods of every revision: a roll moves traffic pod by pod, as they become ready and leave.
pub(super) fn service(deployment: &Validated) -> Service {
    let port = ServicePort {
        name: Some("http".into()),
        port: i32::from(INFERENCE_PORT),
        target_port: Some(IntOrString::String("http".into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    let spec =
        ServiceSpec { selector: Some(selector(&deployment.name)), ports: Some(vec![port]), ..ServiceSpec::default() };
    Service { metadata: metadata(deployment, &deployment.name), spec: Some(spec), status: None }
}
