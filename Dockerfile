# docker build --target controller -t serin-controller:0.1.0 .
# docker build --target gpu-shadow -t serin-gpu-shadow:0.1.0 .
FROM python:3.11-slim AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docker docker
COPY manifests manifests
COPY analysis analysis
COPY controller controller
COPY gpu_shadow gpu_shadow
COPY scenarios scenarios

FROM source AS controller-built
RUN docker/install.sh controller /opt/serin

FROM source AS gpu-shadow-built
RUN docker/install.sh gpu-shadow /opt/serin

FROM python:3.11-slim AS runtime
# compiled by the build, nothing is written at run time; modules are never taken from the work folder
ENV PATH=/opt/serin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
WORKDIR /
USER 65532:65532

FROM runtime AS gpu-shadow
COPY --from=gpu-shadow-built /opt/serin /opt/serin
ENTRYPOINT ["python", "-m", "gpu_shadow"]
CMD ["--models", "/models", "--bind", "0.0.0.0"]

FROM runtime AS controller
COPY --from=controller-built /opt/serin /opt/serin
ENTRYPOINT ["serin"]
CMD ["controller", "--bind", "0.0.0.0"]
