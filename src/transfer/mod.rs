//! Pulls and imports: what joins the swarm, the DAG and the disk.
pub mod api;
