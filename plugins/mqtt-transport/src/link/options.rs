//! Our words for a connection and a message in those of the client library.

use std::sync::Arc;

use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{TlsConfiguration, Transport, mqttbytes::v4 as packets4, v5};
use rustls::ClientConfig;

use super::{CONNECT_TIMEOUT_S, LinkOptions, PACKET_IDS, RECEIVE_MAX, SESSION_EXPIRY_S};
use crate::address::Parcel;

pub(super) fn options5(options: &LinkOptions, clean: bool) -> v5::MqttOptions {
    let mut v5_options = v5::MqttOptions::new(&options.client_id, &options.host, options.port);
    v5_options
        .set_keep_alive(options.keep_alive)
        .set_clean_start(clean || !options.keeps_session)
        .set_connection_timeout(CONNECT_TIMEOUT_S)
        .set_session_expiry_interval(Some(if options.keeps_session { SESSION_EXPIRY_S } else { 0 }))
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_max_packet_size(Some(options.packet_bytes_max))
        .set_outgoing_inflight_upper_limit(PACKET_IDS)
        .set_manual_acks(true);
    if let Some((topic, words)) = &options.will {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        v5_options.set_last_will(packets5::LastWill::new(topic, *words, qos, true, None));
    }
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    v5_options.set_network_options(network);
    if let Some(tls) = &options.tls {
        v5_options.set_transport(transport(tls));
    }
    if let Some((user, password)) = &options.credentials {
        v5_options.set_credentials(user, password);
    }
    v5_options
}

pub(super) fn options311(options: &LinkOptions, clean: bool) -> rumqttc::MqttOptions {
    let mut v311_options =
        rumqttc::MqttOptions::new(&options.client_id, &options.host, options.port);
    let packet_bytes_max = options.packet_bytes_max as usize;
    v311_options
        .set_keep_alive(options.keep_alive)
        .set_clean_session(clean || !options.keeps_session)
        .set_max_packet_size(packet_bytes_max, packet_bytes_max)
        .set_inflight(PACKET_IDS)
        .set_manual_acks(true);
    if let Some((topic, words)) = &options.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        v311_options.set_last_will(packets4::LastWill::new(topic, *words, qos, true));
    }
    if let Some(tls) = &options.tls {
        v311_options.set_transport(transport(tls));
    }
    if let Some((user, password)) = &options.credentials {
        v311_options.set_credentials(user, password);
    }
    v311_options
}

fn transport(tls: &Arc<ClientConfig>) -> Transport {
    Transport::Tls(TlsConfiguration::Rustls(Arc::clone(tls)))
}

pub(super) fn properties_of(parcel: Parcel) -> packets5::PublishProperties {
    let user_properties =
        parcel.properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    packets5::PublishProperties {
        payload_format_indicator: Some(1),
        // An expiry of nothing means "only to who listens now", which is what is left of it.
        message_expiry_interval: parcel
            .expiry
            .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        topic_alias: None,
        response_topic: parcel.response_topic,
        correlation_data: parcel.correlation,
        user_properties,
        subscription_identifiers: Vec::new(),
        content_type: Some(parcel.content_type.to_owned()),
    }
}
