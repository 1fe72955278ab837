//! Integration tests: the real programs, driven from outside. One program for all; each file is a subject.

mod access;
mod audit;
mod bad_input;
mod campaigns;
mod clients;
mod crash;
mod cycle;
mod demo;
mod devices;
mod doctor;
mod freeze;
mod full;
mod fuzz;
mod guard;
mod in_process;
mod isolation;
mod kills;
mod lineage;
mod locking;
mod mutants;
mod prefix;
mod shipping;
mod sim;
mod switches;
mod sync_errors;
mod versions;
