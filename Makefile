# Two commands do everything: `make demo` and `make test`. Both install what is missing first.
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/dmvpn
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
LAB := $(TARGET)/debug/dmvpn-lab
STAGE := e2e/scripts/stage.sh
PROFILE := $(if $(CI),ci,default)
# Half of them for guests that mostly wait: .config/nextest.toml
TEST_THREADS := $(shell echo $$((2 * $$(nproc))))
export PATH := $(PATH):$(CACHE)/tools/bin:/usr/sbin:/sbin

.PHONY: help demo test lab lab-stop fmt clean-cache bench sim sim-proof sim-scale fuzz images

help:
	@echo 'make demo          tell the whole story on real packets (KEEP=1 leaves the scene running)'
	@echo 'make test          formatting, lints, licences, generated files, every test'
	@echo 'make lab           only the scene, with a shell in it'
	@echo 'make lab-stop      end a scene that was left running'
	@echo 'make images        container images of operator, agent and IKE daemon, as files for docker load or ctr import'
	@echo 'make sim SEEDS=n   play n networks on a simulated clock (sim-proof: the simulator proves itself; sim-scale)'
	@echo 'make bench         hub, spoke and engine beside FRR, operator with 10 000 spokes: a table, and target/bench.json'
	@echo '                   (PARTS=hubs,latency,engine,control-plane for some of it)'
	@echo 'make fuzz          fuzz what reads foreign bytes, each target for SECONDS=60'
	@echo 'make fmt           format the sources'
	@echo 'make clean-cache   remove $(CACHE)'

demo:
	@e2e/scripts/bootstrap.sh demo
	@$(LAB) demo $(if $(filter-out 0,$(KEEP)),--keep)

lab:
	@e2e/scripts/bootstrap.sh demo
	@$(LAB) lab

lab-stop:
	@$(LAB) stop

test:
	@$(STAGE) start
	@$(STAGE) setup e2e/scripts/bootstrap.sh test
	@$(STAGE) format cargo fmt --all --check
	@$(STAGE) lints cargo clippy --workspace --all-targets -- -D warnings
	@$(STAGE) licences cargo deny --offline check bans licenses sources
	@$(STAGE) generated-files cargo run -q -p crds --bin crdgen -- --check .
	@$(STAGE) tests cargo nextest run --workspace --profile $(PROFILE) --test-threads $(TEST_THREADS)
	@$(STAGE) summary

images:
	@e2e/scripts/bootstrap.sh demo
	@$(LAB) images

bench:
	@e2e/scripts/bootstrap.sh bench
	@$(TARGET)/release/dmvpn-lab bench $(if $(PARTS),--parts $(PARTS))

fmt:
	cargo fmt --all

clean-cache:
	rm -rf '$(CACHE)'

# Whole networks of engines from seeds; a failing seed says how to replay it. SEEDS=n FIRST=n
SIM := cargo run -q --profile sim -p nhrp-sim
sim:
	@nice $(SIM) -- run $(or $(SEEDS),1000) $(or $(FIRST),0)

# Each safety rule left out in turn: the simulator has to notice.
sim-proof:
	@nice $(SIM) --features proof -- proof $(or $(SEEDS),1000)

sim-scale:
	@nice $(SIM) -- scale

fuzz:
	@fuzz/fuzz.sh $(SECONDS)
