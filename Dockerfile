# The image for every node of a cluster: `docker build -t fastrcnn-ray:0.1.0 .`
# torch is the CUDA build and includes the CUDA libraries. The host needs only NVIDIA's driver and container toolkit.
FROM python:3.12-slim

# Ray's cluster launcher needs rsync and ssh. KubeRay's probes need wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fastrcnn-ray
# The lock comes first: code changes often, and then this layer of gigabytes is reused.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY fastrcnn ./fastrcnn
COPY pipeline ./pipeline
COPY jobs ./jobs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# A user without root rights limits the damage if a file takes over a decoder.
RUN useradd --create-home ray
USER ray
