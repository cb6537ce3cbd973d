# What every node of a cluster runs: `docker build -t fastrcnn-ray:0.1.0 .`
# torch is the CUDA build and brings CUDA's libraries; the host needs only NVIDIA's driver and container toolkit.
FROM python:3.12-slim

# rsync, ssh: Ray's cluster launcher. wget: KubeRay's probes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fastrcnn-ray
# The lock first: code changes every day, this layer of gigabytes does not.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY fastrcnn ./fastrcnn
COPY pipeline ./pipeline
COPY jobs ./jobs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Not root: an image that breaks a decoder then owns nothing.
RUN useradd --create-home ray
USER ray
