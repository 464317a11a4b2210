# Each target is one line; what it does stands in the script it calls. `make` alone lists them.
.PHONY: help build local demo demo-down test bench bench-train images generate lint
help:       ; @sed -n 's/^\([a-z-]*\): *\#\# \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
local:      ## train an example here, without a cluster (EXAMPLE=digits)
local:      ; @scripts/local $(or $(EXAMPLE),digits)
demo:       ## raw data in, a served model out, on a real Kubernetes (CLUSTER=current for your own)
demo:       ; @scripts/demo
demo-down:  ## end the demo and leave nothing behind
demo-down:  ; @scripts/demo-down
test:       ## every test, on a real cluster where one is needed
test:       ; @scripts/test
bench:      ## training, serving and control-plane benchmarks
bench:      ; @scripts/bench
bench-train: ## training beside PyTorch, Polars and pandas (PART="mlp gpt preparation checkpoint", or PART=--gpu)
bench-train: ; @scripts/bench-train $(PART)
build:      ## compile everything, the cluster's programs too
build:      ; @scripts/build
images:     ## build the images of the operator and the trainer
images:     ; @images/build
generate:   ## write the CRDs, the chart's RBAC and the reference anew
generate:   ; @scripts/generate
lint:       ## formats, clippy, shellcheck, helm lint, generated files
lint:       ; @scripts/lint
